// Checked against https://developer.android.com/reference/android/os/Build (SOC_MODEL: API level 31)
package android.os;

public class Build {
  public static final String MANUFACTURER = null;
  public static final String MODEL = null;
  public static final String SOC_MODEL = null;

  public static class VERSION {
    public static final String RELEASE = null;
  }
}
