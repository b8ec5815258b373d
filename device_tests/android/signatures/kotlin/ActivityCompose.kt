// Checked against https://developer.android.com/reference/kotlin/androidx/activity/compose/package-summary
package androidx.activity.compose

import androidx.activity.ComponentActivity
import androidx.activity.result.contract.ActivityResultContract
import androidx.compose.runtime.Composable

external fun ComponentActivity.setContent(content: @Composable () -> Unit)

interface ManagedActivityResultLauncher<I, O> {
    fun launch(input: I)
}

@Composable
external fun <I, O> rememberLauncherForActivityResult(
    contract: ActivityResultContract<I, O>,
    onResult: (O) -> Unit,
): ManagedActivityResultLauncher<I, O>
