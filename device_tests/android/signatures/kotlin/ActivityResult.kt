// Checked against https://developer.android.com/reference/kotlin/androidx/activity/result/contract/package-summary
package androidx.activity.result.contract

import android.net.Uri

abstract class ActivityResultContract<I, O>

class ActivityResultContracts private constructor() {
    class OpenDocumentTree : ActivityResultContract<Uri?, Uri?>()
}
