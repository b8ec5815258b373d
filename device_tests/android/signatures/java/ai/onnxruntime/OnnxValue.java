// Checked against https://onnxruntime.ai/docs/api/java/ai/onnxruntime/OnnxValue.html
package ai.onnxruntime;

public interface OnnxValue extends AutoCloseable {
  @Override
  void close();
}
