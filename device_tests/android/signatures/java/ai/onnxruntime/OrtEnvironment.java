// Signatures that the app uses. Checked against
// https://onnxruntime.ai/docs/api/java/ai/onnxruntime/OrtEnvironment.html and the source,
// https://github.com/microsoft/onnxruntime/blob/main/java/src/main/java/ai/onnxruntime/OrtEnvironment.java
package ai.onnxruntime;

public class OrtEnvironment {
  public static native OrtEnvironment getEnvironment();

  public native OrtSession createSession(String modelPath, OrtSession.SessionOptions options) throws OrtException;
}
