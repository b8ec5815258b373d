// Checked against https://developer.android.com/reference/kotlin/androidx/compose/ui/Modifier
package androidx.compose.ui

interface Modifier {
    companion object : Modifier
}
