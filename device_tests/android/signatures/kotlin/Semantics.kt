// Checked against https://developer.android.com/reference/kotlin/androidx/compose/ui/semantics/package-summary
package androidx.compose.ui.semantics

import androidx.compose.ui.Modifier

interface SemanticsPropertyReceiver

interface LiveRegionMode {
    companion object {
        val Polite: LiveRegionMode
            external get
    }
}

external fun Modifier.semantics(
    mergeDescendants: Boolean = false,
    properties: SemanticsPropertyReceiver.() -> Unit,
): Modifier

var SemanticsPropertyReceiver.contentDescription: String
    external get
    external set

var SemanticsPropertyReceiver.liveRegion: LiveRegionMode
    external get
    external set
