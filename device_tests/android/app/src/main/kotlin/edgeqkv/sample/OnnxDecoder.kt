package edgeqkv.sample

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import edgeqkv.core.Artifact
import edgeqkv.core.Bundle
import edgeqkv.core.Decoder
import edgeqkv.core.EdgeQkvException
import edgeqkv.core.StateTensor
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.LongBuffer

/** An ONNX export (forms `portable` and `ort`) in ONNX Runtime; see docs/onnx.md for what the graph promises. */
class OnnxDecoder(bundle: Bundle, private val artifact: Artifact) : Decoder {
    private val environment = OrtEnvironment.getEnvironment()
    private val options = OrtSession.SessionOptions()
    private val session: OrtSession

    /** One tensor each, bound as the input and as every output, so that the runtime appends to it where it lies. */
    private val state = artifact.stateTensors.associateWith(::zeros)
    private val logits = direct(artifact.vocabulary * Float.SIZE_BYTES).asFloatBuffer()
    private val logitsTensor =
        OnnxTensor.createTensor(environment, logits, longArrayOf(1, artifact.vocabulary.toLong()))
    private val stateInputs = state.entries.associate { (tensor, value) -> checkNotNull(tensor.input) to value }
    private val outputs = buildMap {
        state.forEach { (tensor, value) -> tensor.outputs.forEach { put(it, value) } }
        put("logits", logitsTensor)
    }

    init {
        if (artifact.form !in FORMS) {
            throw EdgeQkvException("this app runs the forms $FORMS, not ${artifact.form}: export with --form portable")
        }
        options.setCPUArenaAllocator(false)  // it grows by doubling and never shrinks
        if (artifact.weights.startsWith("fp")) {
            // Packing would copy every float weight out of the mapped file; quantized ones need it for their kernels.
            options.addConfigEntry("session.disable_prepacking", "1")
        }
        session = environment.createSession(File(bundle.folder, artifact.graphs.single().file).path, options)
    }

    override fun step(ids: IntArray, position: Int): FloatArray {
        val inputs = mapOf(
            "input_ids" to rowOf(LongArray(ids.size) { ids[it].toLong() }),
            "position_ids" to rowOf(LongArray(ids.size) { (position + it).toLong() }),
            "logit_index" to numberOf(ids.size - 1),
            "kv_len" to numberOf(position + ids.size),
        )
        try {
            session.run(inputs + stateInputs, emptySet(), outputs).close()
        } finally {
            inputs.values.forEach { it.close() }
        }
        logits.rewind()
        return FloatArray(artifact.vocabulary).also { logits.get(it) }
    }

    override fun close() {
        session.close()
        options.close()
        (state.values + logitsTensor).forEach { it.close() }
    }

    private fun zeros(tensor: StateTensor): OnnxTensor {
        val type = when (tensor.dtype) {
            "fp32" -> OnnxJavaType.FLOAT
            "fp16" -> OnnxJavaType.FLOAT16
            "int8" -> OnnxJavaType.INT8
            else -> throw EdgeQkvException("${tensor.name} is of type ${tensor.dtype}, which this app does not know")
        }
        val bytes = tensor.shape.reduce(Long::times) * Artifact.ELEMENT_BYTES.getValue(tensor.dtype)
        return OnnxTensor.createTensor(environment, direct(Math.toIntExact(bytes)), tensor.shape.toLongArray(), type)
    }

    private fun rowOf(values: LongArray) =
        OnnxTensor.createTensor(environment, LongBuffer.wrap(values), longArrayOf(1, values.size.toLong()))

    private fun numberOf(value: Int) =
        OnnxTensor.createTensor(environment, LongBuffer.wrap(longArrayOf(value.toLong())), longArrayOf(1))

    private fun direct(bytes: Int) = ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder())

    private companion object {
        val FORMS = setOf("portable", "ort")
    }
}
