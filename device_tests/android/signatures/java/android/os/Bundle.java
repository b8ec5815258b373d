// Checked against https://developer.android.com/reference/android/os/Bundle
package android.os;

public final class Bundle {}
