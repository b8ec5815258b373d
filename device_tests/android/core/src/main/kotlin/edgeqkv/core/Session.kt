package edgeqkv.core

/** What runs a model: one call's tokens in, the logits after the last of them out. It keeps the KV state. */
interface Decoder : AutoCloseable {
    /** Run [ids], which stand at [position] and after it; the logits of the last one, one a token of the vocabulary. */
    fun step(ids: IntArray, position: Int): FloatArray
}

/** The context is full; nothing was fed. */
class ContextFull(message: String) : Exception(message)

/**
 * The sizes of the calls that feed [tokens] tokens.
 *
 * A graph that takes any number gets chunks and what is left. A [fixed] one takes exactly a chunk, so that what is
 * left goes token by token, to the graph that takes one.
 */
fun plan(tokens: Int, chunk: Int, fixed: Boolean): List<Int> {
    val full = List(tokens / chunk) { chunk }
    val rest = tokens % chunk
    return full + if (fixed) List(rest) { 1 } else listOfNotNull(rest.takeIf { it > 0 })
}

/** A decoder with its place in the context: checks what is fed, and feeds it in chunks. */
class Session(
    private val decoder: Decoder,
    val context: Int,
    private val chunk: Int,
    private val vocabulary: Int,
    private val fixed: Boolean = false,
) : AutoCloseable by decoder {
    constructor(decoder: Decoder, artifact: Artifact) : this(
        decoder,
        artifact.context,
        artifact.chunk,
        artifact.vocabulary,
        artifact.graphs.any { it.fixed },
    )

    /** Tokens fed since the start or the last [reset]. */
    var position = 0
        private set

    /** Append tokens; the logits after the last one. */
    fun feed(ids: IntArray): FloatArray {
        if (ids.isEmpty()) throw EdgeQkvException("there is nothing to feed; give one or more tokens")
        ids.find { it !in 0 until vocabulary }?.let {
            throw EdgeQkvException("token $it is not in this model's vocabulary, 0 to ${vocabulary - 1}")
        }
        if (position + ids.size > context) {
            throw ContextFull("${ids.size} more tokens do not fit: $position of $context positions are taken")
        }
        var logits = FloatArray(0)
        var start = 0
        for (size in plan(ids.size, chunk, fixed)) {
            logits = decoder.step(ids.copyOfRange(start, start + size), position)
            start += size
            position += size
        }
        return logits
    }

    /** Forget everything that was fed. Rows of the state are overwritten before they are read again. */
    fun reset() {
        position = 0
    }
}
