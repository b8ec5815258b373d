// What the Android Gradle plugin generates from app/build.gradle.kts.
package edgeqkv.sample;

public final class BuildConfig {
  public static final String VERSION_NAME = "";
  public static final String ONNXRUNTIME_VERSION = "";
  public static final String EXECUTORCH_VERSION = "";
}
