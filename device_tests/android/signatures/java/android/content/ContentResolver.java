// Checked against https://developer.android.com/reference/android/content/ContentResolver
package android.content;

import android.database.Cursor;
import android.net.Uri;
import java.io.InputStream;

public abstract class ContentResolver {
  public final native Cursor query(
      Uri uri, String[] projection, String selection, String[] selectionArgs, String sortOrder);

  public final native InputStream openInputStream(Uri uri);
}
