// Checked against https://developer.android.com/reference/androidx/core/content/FileProvider
package androidx.core.content;

import android.content.Context;
import android.net.Uri;
import java.io.File;

public class FileProvider {
  public static native Uri getUriForFile(Context context, String authority, File file);
}
