package edgeqkv.core

/** What calls an export's graphs. It keeps the KV state, whoever of graph, runtime and itself writes to it. */
interface Runner : AutoCloseable {
    /** The logits of a call: of the token that the graph was asked for, or of every token, one after another. */
    fun run(call: Call): FloatArray

    /** Give back what a graph takes; it is opened anew if it is called again. */
    fun close(graph: Graph) = Unit
}

/** The context is full; nothing was fed. */
class ContextFull(message: String) : Exception(message)

/** A decoder with its place in the context: checks what is fed, and feeds it in chunks to the graphs that take them. */
class Session(private val runner: Runner, private val artifact: Artifact) : AutoCloseable by runner {
    val context = artifact.context

    /** Tokens fed since the start or the last [reset]. */
    var position = 0
        private set

    /** Append tokens; the logits after the last one. */
    fun feed(ids: IntArray): FloatArray {
        if (ids.isEmpty()) throw EdgeQkvException("there is nothing to feed; give one or more tokens")
        ids.find { it !in 0 until artifact.vocabulary }?.let {
            throw EdgeQkvException("token $it is not in this model's vocabulary, 0 to ${artifact.vocabulary - 1}")
        }
        if (position + ids.size > context) {
            throw ContextFull("${ids.size} more tokens do not fit: $position of $context positions are taken")
        }
        return ids.toList().chunked(artifact.chunk).map { step(it.toIntArray()) }.last()
    }

    /** Forget everything that was fed. Rows of the state are overwritten before they are read again. */
    fun reset() {
        position = 0
    }

    private fun step(ids: IntArray): FloatArray {
        // Graphs of windows that are full cannot be called again before a reset, and may hold weights of their own.
        artifact.graphs.filter { it.window != null && it.window <= position }.forEach(runner::close)
        val graph = artifact.graphFor(ids.size, position)
            ?: if (ids.size > 1) {
                return stepOfSeveral(ids)
            } else {
                throw EdgeQkvException("no graph of this export takes a token at position $position. Export it again")
            }
        val logits = runner.run(Call(graph, ids, position))
        position += ids.size
        val rows = logits.size / artifact.vocabulary
        if (rows == 1) return logits
        return logits.copyOfRange((ids.size - 1) * artifact.vocabulary, ids.size * artifact.vocabulary)
    }

    /** Tokens that no graph takes as they are: all but the last fill one up, or they go one by one. */
    private fun stepOfSeveral(ids: IntArray): FloatArray {
        val before = ids.copyOf(ids.size - 1)
        val graph = artifact.graphForAllButLogits(before.size, position)
            ?: return ids.map { step(intArrayOf(it)) }.last()
        runner.run(Call(graph, before, position))
        position += before.size
        return step(intArrayOf(ids.last()))
    }
}
