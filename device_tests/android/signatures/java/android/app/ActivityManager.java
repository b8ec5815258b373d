// Checked against https://developer.android.com/reference/android/app/ActivityManager.MemoryInfo; totalMem is in bytes.
package android.app;

public class ActivityManager {
  public native void getMemoryInfo(MemoryInfo outInfo);

  public static class MemoryInfo {
    public long totalMem;

    public MemoryInfo() {}
  }
}
