// Checked against https://developer.android.com/reference/kotlin/androidx/activity/ComponentActivity and
// https://developer.android.com/reference/kotlin/androidx/activity/package-summary
package androidx.activity

import android.app.Activity
import androidx.lifecycle.AndroidViewModel

open class ComponentActivity : Activity()

/** The library's is for every `ViewModel`. */
inline fun <reified VM : AndroidViewModel> ComponentActivity.viewModels(): Lazy<VM> = throw NotImplementedError()
