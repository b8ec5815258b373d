// Checked against https://developer.android.com/reference/android/content/Intent
package android.content;

public class Intent {
  public static final String ACTION_SEND = null;
  public static final String EXTRA_TEXT = null;

  public Intent(String action) {}

  public native Intent setType(String type);

  public native Intent putExtra(String name, String value);

  public static native Intent createChooser(Intent target, CharSequence title);
}
