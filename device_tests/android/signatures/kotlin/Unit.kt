// Checked against https://developer.android.com/reference/kotlin/androidx/compose/ui/unit/package-summary
package androidx.compose.ui.unit

interface Dp

val Int.dp: Dp
    external get
