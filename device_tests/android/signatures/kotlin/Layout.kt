// Checked against https://developer.android.com/reference/kotlin/androidx/compose/foundation/layout/package-summary
package androidx.compose.foundation.layout

import androidx.compose.runtime.Composable
import androidx.compose.ui.Modifier
import androidx.compose.ui.unit.Dp

object Arrangement {
    interface Horizontal

    interface Vertical

    interface HorizontalOrVertical : Horizontal, Vertical

    external fun spacedBy(space: Dp): HorizontalOrVertical
}

interface ColumnScope

interface RowScope

@Composable
external fun Column(
    modifier: Modifier = Modifier,
    verticalArrangement: Arrangement.Vertical,
    content: @Composable ColumnScope.() -> Unit,
)

@Composable
external fun Row(
    modifier: Modifier = Modifier,
    horizontalArrangement: Arrangement.Horizontal,
    content: @Composable RowScope.() -> Unit,
)

external fun Modifier.padding(all: Dp): Modifier

external fun Modifier.fillMaxSize(fraction: Float = 1f): Modifier

external fun Modifier.fillMaxWidth(fraction: Float = 1f): Modifier

external fun Modifier.safeDrawingPadding(): Modifier
