// Checked against https://developer.android.com/reference/android/content/Intent
package android.content;

import android.os.Parcelable;

public class Intent {
  public static final String ACTION_SEND = null;
  public static final String EXTRA_STREAM = null;
  public static final int FLAG_GRANT_READ_URI_PERMISSION = 0x00000001;

  public Intent(String action) {}

  public native Intent setType(String type);

  public native Intent putExtra(String name, Parcelable value);

  public native Intent addFlags(int flags);

  public static native Intent createChooser(Intent target, CharSequence title);
}
