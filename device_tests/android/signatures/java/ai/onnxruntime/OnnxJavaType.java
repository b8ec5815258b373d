// Checked against
// https://github.com/microsoft/onnxruntime/blob/main/java/src/main/java/ai/onnxruntime/OnnxJavaType.java
package ai.onnxruntime;

public enum OnnxJavaType { FLOAT, INT8, INT32, INT64, BOOL, UINT8, FLOAT16 }
