// What the app passes, in the order of the parameters; each function has more of them, with defaults. Checked against
// https://developer.android.com/reference/kotlin/androidx/compose/material3/package-summary, and OutlinedTextField.kt
// and Slider.kt in https://github.com/androidx/androidx/tree/androidx-main/compose/material3/material3/src/commonMain
package androidx.compose.material3

import android.content.Context
import androidx.compose.foundation.layout.RowScope
import androidx.compose.runtime.Composable
import androidx.compose.ui.Modifier

interface ColorScheme

/** From API level 31 on. */
external fun dynamicDarkColorScheme(context: Context): ColorScheme

external fun dynamicLightColorScheme(context: Context): ColorScheme

@Composable
external fun MaterialTheme(colorScheme: ColorScheme, content: @Composable () -> Unit)

@Composable
external fun Surface(modifier: Modifier = Modifier, content: @Composable () -> Unit)

@Composable
external fun Text(text: String, modifier: Modifier = Modifier)

@Composable
external fun Button(onClick: () -> Unit, modifier: Modifier = Modifier, content: @Composable RowScope.() -> Unit)

@Composable
external fun OutlinedTextField(
    value: String,
    onValueChange: (String) -> Unit,
    modifier: Modifier = Modifier,
    label: @Composable (() -> Unit)? = null,
)

@Composable
external fun Slider(value: Float, onValueChange: (Float) -> Unit, modifier: Modifier = Modifier)

@Composable
external fun OutlinedButton(
    onClick: () -> Unit,
    modifier: Modifier = Modifier,
    content: @Composable RowScope.() -> Unit,
)

@Composable
external fun Switch(checked: Boolean, onCheckedChange: ((Boolean) -> Unit)?, modifier: Modifier = Modifier)
