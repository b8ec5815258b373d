// Checked against https://developer.android.com/reference/android/app/Activity
package android.app;

import android.content.Context;
import android.content.Intent;
import android.os.Bundle;

public class Activity extends Context {
  protected native void onCreate(Bundle savedInstanceState);

  public native void startActivity(Intent intent);
}
