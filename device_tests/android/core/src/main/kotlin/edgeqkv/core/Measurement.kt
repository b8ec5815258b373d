package edgeqkv.core

import kotlin.concurrent.thread
import kotlin.time.DurationUnit
import kotlin.time.TimeSource

/** The phases of a process's life that the budget predicts. */
enum class Phase { LOAD, PREFILL, DECODE }

/** Samples a system's figure of this process's memory, in bytes, and keeps the largest of each phase. */
class MemoryWatch(private val probe: () -> Long) : AutoCloseable {
    val before: Long = probe()

    /** Phase → the largest sample. */
    val peaks: Map<Phase, Long>
        get() = synchronized(largest) { largest.toMap() }

    private val largest = mutableMapOf<Phase, Long>()
    private var phase = Phase.LOAD

    @Volatile
    private var watching = true
    private val sampler = thread(isDaemon = true, name = "memory watch") {
        while (watching) {
            sample()
            Thread.sleep(INTERVAL_MS)
        }
    }

    /** Sample once more for the phase that ends here, and start the next. */
    fun enter(next: Phase) {
        sample()
        synchronized(largest) { phase = next }
    }

    override fun close() {
        watching = false
        sampler.join()
    }

    private fun sample() {
        val now = probe()
        synchronized(largest) { largest[phase] = maxOf(largest[phase] ?: 0, now) }
    }

    private companion object {
        const val INTERVAL_MS = 50L
    }
}

/** What one run took: load, a prompt, and the tokens after it, which fill the context together. */
data class Measurement(
    val loadSeconds: Double,
    val outcome: Outcome,
    val memoryBefore: Long,
    val memoryPeaks: Map<Phase, Long>,
)

/**
 * The run that a device report is about: open the model, give it a prompt that leaves [decoded] tokens of the
 * [context] free, and let it fill those.
 *
 * @param probe the system's figure of this process's memory, in bytes.
 */
fun measure(
    context: Int,
    tokenizer: Tokenizer,
    probe: () -> Long,
    decoded: Int = minOf(64, context / 2),
    open: () -> TextModel,
): Measurement {
    MemoryWatch(probe).use { watch ->
        val start = TimeSource.Monotonic.markNow()
        open().use { model ->
            val loadSeconds = start.elapsedNow().toDouble(DurationUnit.SECONDS)
            watch.enter(Phase.PREFILL)
            var text = false
            val outcome = model.generate(prompt(tokenizer, context - decoded), decoded + 1, temperature = 0.0) {
                if (!text) watch.enter(Phase.DECODE)
                text = true
            }
            watch.enter(Phase.DECODE)
            if (outcome.decode.tokens == 0) throw EdgeQkvException("the model ended the text at its first token")
            return Measurement(loadSeconds, outcome, watch.before, watch.peaks)
        }
    }
}

/** A text of at most so many tokens, and as many as can be had by repeating a word. */
internal fun prompt(tokenizer: Tokenizer, tokens: Int): String {
    val word = " a"
    return word.repeat(tokens / tokenizer.encode(word).size)
}
