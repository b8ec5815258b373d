package edgeqkv.sample

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import edgeqkv.core.Artifact
import edgeqkv.core.Bundle
import edgeqkv.core.Call
import edgeqkv.core.Dtype
import edgeqkv.core.EdgeQkvException
import edgeqkv.core.Graph
import edgeqkv.core.Input
import edgeqkv.core.Role
import edgeqkv.core.Runner
import edgeqkv.core.StateUpdate
import edgeqkv.core.TensorSpec
import edgeqkv.core.graphFor
import edgeqkv.core.writeRows
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder

/**
 * An ONNX export in ONNX Runtime; see docs/onnx.md for what its graphs promise. One that was compiled for a Hexagon NPU
 * runs there, through the QNN provider, and nowhere else: a part that fell to the CPU is an error.
 */
class OnnxRunner(private val bundle: Bundle, private val artifact: Artifact) : Runner {
    private val environment = OrtEnvironment.getEnvironment()
    private val options = OrtSession.SessionOptions()
    private val sessions = mutableMapOf<String, OrtSession>()

    /** The state tensors that this side holds. */
    private val held = artifact.stateTensors.filter { it.update != StateUpdate.RUNTIME }

    /** One tensor each, bound as the input and as every output, so that the runtime appends to it where it lies. */
    private val state = held.associateWith { Memory(it.dtype, it.shape).apply { fill(it.zero) } }

    /** The same by the names that graphs have for them. */
    private val byName = held.flatMap { tensor ->
        (listOf(tensor.input, tensor.output) + tensor.aliases).filterNotNull().map { it to tensor }
    }.toMap()

    /** Where the last call's logits lie; the next one's mostly have the same shape. */
    private var logits: Memory? = null

    init {
        options.setCPUArenaAllocator(false)  // it grows by doubling and never shrinks
        if (artifact.compiled != null) {
            options.addQnn(mapOf("backend_path" to "libQnnHtp.so", "htp_performance_mode" to "burst"))
            options.addConfigEntry("session.disable_cpu_ep_fallback", "1")
            options.addConfigEntry("ep.share_ep_contexts", "1")  // prefill and decode are in one binary
        }
        if (artifact.weights.startsWith("fp")) {
            // Packing would copy every float weight out of the mapped file; quantized ones need it for their kernels.
            options.addConfigEntry("session.disable_prepacking", "1")
        }
        // What a prompt and the first token after it call; the graphs of wider windows wait until they are needed.
        listOf(artifact.chunk, 1).mapNotNull { artifact.graphFor(it, 0) }.forEach(::session)
    }

    override fun run(call: Call): FloatArray {
        val graph = call.graph
        val logits = logitsOf(call)
        val given = call.inputs.associate { it.spec.name to Memory(it.spec.dtype, it.shape).fill(it) }
        val rows = graph.outputs.filter { it.role == Role.STATE && stateOf(it).update == StateUpdate.ROWS }
            .associate { it.name to Memory(it.dtype, call.shape(it)) }
        try {
            val inputs = graph.inputs.associate { it.name to (given[it.name] ?: memoryOf(it)).tensor }
            val outputs = graph.outputs.associate {
                it.name to (if (it == graph.logits) logits else rows[it.name] ?: memoryOf(it)).tensor
            }
            session(graph).run(inputs, emptySet(), outputs).close()
            rows.forEach { (name, memory) ->
                val tensor = byName.getValue(name)
                artifact.writeRows(tensor, memory.buffer, state.getValue(tensor).buffer, call)
            }
        } finally {
            (given.values + rows.values).forEach { it.close() }
        }
        return logits.floats()
    }

    override fun close(graph: Graph) {
        sessions.remove(graph.name)?.close()
    }

    override fun close() {
        sessions.values.forEach { it.close() }
        options.close()
        (state.values + listOfNotNull(logits)).forEach { it.close() }
    }

    private fun session(graph: Graph) = sessions.getOrPut(graph.name) {
        val file = artifact.compiled?.graphs?.getValue(graph.name) ?: graph.file
        environment.createSession(File(bundle.folder, file).path, options)
    }

    private fun logitsOf(call: Call): Memory {
        val shape = call.shape(call.graph.logits)
        logits?.let { if (it.shape == shape) return it else it.close() }
        return Memory(call.graph.logits.dtype, shape).also { logits = it }
    }

    private fun memoryOf(spec: TensorSpec) = state.getValue(stateOf(spec))

    private fun stateOf(spec: TensorSpec) =
        byName[spec.name]
            ?: throw EdgeQkvException("the manifest says nothing of '${spec.name}'. Export the model again")

    /** A tensor and the memory that it lies in. */
    private inner class Memory(private val dtype: Dtype, val shape: List<Int>) : AutoCloseable {
        val buffer: ByteBuffer = ByteBuffer
            .allocateDirect(Math.toIntExact(shape.fold(dtype.bytes.toLong(), Long::times)))
            .order(ByteOrder.nativeOrder())
        val tensor: OnnxTensor =
            OnnxTensor.createTensor(environment, buffer, LongArray(shape.size) { shape[it].toLong() }, type(dtype))

        fun fill(input: Input) = apply {
            for (value in input.values) {
                when (dtype) {
                    Dtype.INT64 -> buffer.putLong(value.toLong())
                    Dtype.INT32 -> buffer.putInt(value.toInt())
                    Dtype.FP32 -> buffer.putFloat(value.toFloat())
                    else -> throw EdgeQkvException("'${input.spec.name}' is of type $dtype, which this app cannot give")
                }
            }
            buffer.rewind()
        }

        /** Every number the same; the state's are codes of a byte, or zeros. */
        fun fill(code: Int) {
            if (code != 0) repeat(buffer.capacity()) { buffer.put(it, code.toByte()) }
        }

        fun floats(): FloatArray {
            if (dtype != Dtype.FP32) throw EdgeQkvException("this app knows no logits of type $dtype")
            return FloatArray(buffer.capacity() / dtype.bytes).also { buffer.asFloatBuffer().get(it) }
        }

        override fun close() = tensor.close()
    }

    private companion object {
        fun type(dtype: Dtype) = when (dtype) {
            Dtype.FP32 -> OnnxJavaType.FLOAT
            Dtype.FP16 -> OnnxJavaType.FLOAT16
            Dtype.INT8 -> OnnxJavaType.INT8
            Dtype.UINT8 -> OnnxJavaType.UINT8
            Dtype.INT32 -> OnnxJavaType.INT32
            Dtype.INT64 -> OnnxJavaType.INT64
            Dtype.BOOL -> OnnxJavaType.BOOL
        }
    }
}
