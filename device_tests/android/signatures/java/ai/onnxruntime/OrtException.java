// Checked against https://onnxruntime.ai/docs/api/java/ai/onnxruntime/OrtException.html
package ai.onnxruntime;

public class OrtException extends Exception {}
