// Signatures that the app uses. Checked against https://onnxruntime.ai/docs/api/java/ai/onnxruntime/OnnxTensor.html
// A tensor made from a direct buffer is backed by it.
package ai.onnxruntime;

import java.nio.ByteBuffer;
import java.nio.FloatBuffer;
import java.nio.LongBuffer;

public class OnnxTensor extends OnnxTensorLike {
  public static native OnnxTensor createTensor(OrtEnvironment env, FloatBuffer data, long[] shape) throws OrtException;

  public static native OnnxTensor createTensor(OrtEnvironment env, LongBuffer data, long[] shape) throws OrtException;

  public static native OnnxTensor createTensor(
      OrtEnvironment env, ByteBuffer data, long[] shape, OnnxJavaType type) throws OrtException;

  @Override
  public native void close();
}
