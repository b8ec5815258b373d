// Checked against https://developer.android.com/reference/android/net/Uri
package android.net;

import android.os.Parcelable;

public abstract class Uri implements Parcelable {}
