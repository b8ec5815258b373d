// Checked against https://developer.android.com/reference/kotlin/androidx/lifecycle/AndroidViewModel
package androidx.lifecycle

import android.app.Application

open class AndroidViewModel(application: Application) {
    protected open external fun onCleared()
}
