// Signatures that the app uses. Checked against
// https://onnxruntime.ai/docs/api/java/ai/onnxruntime/OrtSession.html, OrtSession.SessionOptions.html and
// OrtSession.Result.html; pinned outputs also against java/src/test/java/ai/onnxruntime/InferenceTest.java in
// https://github.com/microsoft/onnxruntime, which pins all outputs and requests none besides.
package ai.onnxruntime;

import java.util.Map;
import java.util.Set;

public class OrtSession implements AutoCloseable {
  public native Result run(
      Map<String, ? extends OnnxTensorLike> inputs,
      Set<String> requestedOutputs,
      Map<String, ? extends OnnxValue> pinnedOutputs)
      throws OrtException;

  @Override
  public native void close() throws OrtException;

  public static class Result implements AutoCloseable {
    @Override
    public native void close();
  }

  public static class SessionOptions implements AutoCloseable {
    public native void setCPUArenaAllocator(boolean useArena) throws OrtException;

    public native void addQnn(Map<String, String> providerOptions) throws OrtException;

    public native void addConfigEntry(String configKey, String configValue) throws OrtException;

    @Override
    public native void close();
  }
}
