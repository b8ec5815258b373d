package edgeqkv.core

import java.nio.ByteBuffer

// The same as in edgeqkv/run/session.py: which graph is called, and what its inputs are filled with, by their roles.

/** An input that is filled: its numbers in the order of memory, which a runtime turns into the input's own type. */
class Input(val spec: TensorSpec, val shape: List<Int>, val values: DoubleArray)

/** One call of a graph, with tokens [ids], which stand at [position] and after it. */
class Call(val graph: Graph, val ids: IntArray, val position: Int) {
    /** Tokens that the graph takes; of a fixed one, those behind the last of [ids] only fill it up. */
    val tokens = if (graph.fixed) graph.tokens else ids.size

    /** Positions that are filled after the call. */
    val end = position + ids.size

    /** Every input but the state. */
    val inputs: List<Input>
        get() = graph.inputs.filter { it.role != Role.STATE }.map {
            val shape = shape(it)
            Input(it, shape, fill(it, shape))
        }

    /** The shape that an input or output has in this call. */
    fun shape(spec: TensorSpec): List<Int> = spec.shape.map {
        when (it) {
            is Size.Fixed -> it.size
            is Size.Named ->
                sizes[it.name] ?: throw EdgeQkvException("'${spec.name}' is of an unknown size, ${it.name}")
        }
    }

    private val sizes
        get() = mapOf("tokens" to tokens, "end" to end, "end + 1" to end + 1)

    private fun fill(spec: TensorSpec, shape: List<Int>): DoubleArray {
        val size = shape.fold(1, Int::times)
        return when (spec.role) {
            Role.TOKENS -> DoubleArray(size) { ids.getOrElse(it) { 0 }.toDouble() }
            Role.POSITIONS -> DoubleArray(size) { (position + it).toDouble() }
            Role.START -> DoubleArray(size) { position.toDouble() }
            Role.LOGIT_INDEX -> DoubleArray(size) { (ids.size - 1).toDouble() }
            Role.LENGTH -> when (spec.shape.last()) {
                is Size.Fixed -> DoubleArray(size) { end.toDouble() }
                is Size.Named -> DoubleArray(size)  // its size says it
            }
            Role.MASK -> LOWEST[spec.dtype]?.let { lowest ->
                val columns = shape.last()
                DoubleArray(size) { if (it % columns <= position + it / columns) 0.0 else lowest }
            } ?: DoubleArray(size) { 1.0 }
            else -> throw EdgeQkvException("'${spec.name}' is of the role ${spec.role}, which is no decoder's")
        }
    }

    private companion object {
        /** What added to a score hides it; masks of integers say only which positions are filled. */
        val LOWEST = mapOf(Dtype.FP32 to -Float.MAX_VALUE.toDouble(), Dtype.FP16 to -65504.0)
    }
}

/**
 * The graph for [count] tokens at [position]: of those that take so many there, the smallest with the smallest window.
 * Null: there is none, and they go one by one.
 *
 * A fixed graph that says which token's logits it gives is filled up. What fills it up stands after the last token:
 * nothing attends to it there, and the tokens that come to stand there overwrite it.
 */
fun Artifact.graphFor(count: Int, position: Int): Graph? =
    graphsWithRoom(count, position).firstOrNull { !it.fixed || it.tokens == count || it.has(Role.LOGIT_INDEX) }

/**
 * The graph that takes [count] tokens, filled up, whatever logits it gives. Null: not worth its call.
 *
 * Up to 16 tokens of it for each that is wanted: reading the weights once is most of what any call takes.
 */
fun Artifact.graphForAllButLogits(count: Int, position: Int): Graph? =
    graphsWithRoom(count, position).firstOrNull { it.tokens <= count * 16 }

/** The graphs with room for [count] tokens at [position], the smallest first. */
private fun Artifact.graphsWithRoom(count: Int, position: Int): List<Graph> =
    graphs.filter { it.tokens >= count && (!it.fixed || position + it.tokens <= (it.window ?: context)) }
        .sortedWith(compareBy({ it.tokens }, { it.window ?: 0 }))

/** Write a call's new [rows] of a state tensor, which came from the graph alone, to where they belong in [state]. */
fun Artifact.writeRows(tensor: StateTensor, rows: ByteBuffer, state: ByteBuffer, call: Call) {
    val axis = axes.indexOf("context")
    val row = tensor.shape.drop(axis + 1).fold(tensor.dtype.bytes, Int::times)
    for (block in 0 until tensor.shape.take(axis).fold(1, Int::times)) {
        val from = rows.duplicate().apply {
            limit((block * call.tokens + call.ids.size) * row)
            position(block * call.tokens * row)
        }
        state.duplicate().apply { position((block * tensor.shape[axis] + call.position) * row) }.put(from)
    }
}
