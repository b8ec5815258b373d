// Checked against https://developer.android.com/reference/kotlin/androidx/activity/compose/package-summary
package androidx.activity.compose

import androidx.activity.ComponentActivity
import androidx.compose.runtime.Composable

external fun ComponentActivity.setContent(content: @Composable () -> Unit)
