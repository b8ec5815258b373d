// Checked against https://developer.android.com/reference/android/os/Parcelable
package android.os;

public interface Parcelable {}
