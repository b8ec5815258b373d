// Signatures that the app uses. Checked against
// https://developer.android.com/reference/kotlin/androidx/compose/runtime/package-summary
package androidx.compose.runtime

import kotlin.reflect.KProperty

@Target(AnnotationTarget.FUNCTION, AnnotationTarget.TYPE)
annotation class Composable

interface MutableState<T> {
    var value: T
}

interface MutableFloatState

external fun <T> mutableStateOf(value: T): MutableState<T>

external fun mutableFloatStateOf(value: Float): MutableFloatState

external operator fun <T> MutableState<T>.getValue(thisObj: Any?, property: KProperty<*>): T

external operator fun <T> MutableState<T>.setValue(thisObj: Any?, property: KProperty<*>, value: T)

external operator fun MutableFloatState.getValue(thisObj: Any?, property: KProperty<*>): Float

external operator fun MutableFloatState.setValue(thisObj: Any?, property: KProperty<*>, value: Float)

@Composable
external fun <T> remember(calculation: () -> T): T
