// Checked against https://developer.android.com/reference/android/os/Debug and Debug.MemoryInfo; sizes are in kB.
package android.os;

public final class Debug {
  public static native void getMemoryInfo(MemoryInfo memoryInfo);

  public static class MemoryInfo {
    public MemoryInfo() {}

    public native int getTotalPss();
  }
}
