// Checked against https://onnxruntime.ai/docs/api/java/ai/onnxruntime/OnnxTensorLike.html
package ai.onnxruntime;

public abstract class OnnxTensorLike implements OnnxValue {}
