// Checked against https://developer.android.com/reference/android/content/Context
package android.content;

import java.io.File;

public abstract class Context {
  public final native <T> T getSystemService(Class<T> serviceClass);

  public native File getExternalFilesDir(String type);

  public native ContentResolver getContentResolver();

  public native String getPackageName();
}
