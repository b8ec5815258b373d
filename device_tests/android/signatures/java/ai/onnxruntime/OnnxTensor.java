// Signatures that the app uses. Checked against https://onnxruntime.ai/docs/api/java/ai/onnxruntime/OnnxTensor.html
// A tensor made from a direct buffer is backed by it.
package ai.onnxruntime;

import java.nio.ByteBuffer;

public class OnnxTensor extends OnnxTensorLike {
  public static native OnnxTensor createTensor(
      OrtEnvironment env, ByteBuffer data, long[] shape, OnnxJavaType type) throws OrtException;

  @Override
  public native void close();
}
