package edgeqkv.core

import kotlin.random.Random
import kotlin.time.DurationUnit
import kotlin.time.TimeSource

/** Why a generation ended. */
enum class StopReason { END_OF_TEXT, MAX_TOKENS, CONTEXT_FULL, STOPPED }

/** Tokens fed, and how long that took. */
data class Run(val tokens: Int, val seconds: Double) {
    val tokensPerSecond get() = tokens / seconds
}

/** What a generation did: the prompt's run, the run of the tokens after it, and why it ended (null: not told). */
data class Outcome(val prefill: Run, val decode: Run, val stopped: StopReason?)

/**
 * Continue [prompt], telling each token as it is chosen. [goOn] is asked before every call of the model.
 *
 * @param maxTokens tokens to generate at most; null: until the context is full.
 */
fun Session.generate(
    prompt: IntArray,
    maxTokens: Int? = null,
    sampling: Sampling = Sampling(),
    eosTokenIds: Set<Int> = emptySet(),
    random: Random = Random.Default,
    goOn: () -> Boolean = { true },
    onToken: (Int) -> Unit,
): Outcome {
    val start = TimeSource.Monotonic.markNow()
    var logits = feed(prompt)
    val prefill = Run(prompt.size, start.elapsedNow().toDouble(DurationUnit.SECONDS))
    val decoding = TimeSource.Monotonic.markNow()
    var generated = 0
    var decoded = 0
    var last: Int? = null
    fun ended(reason: StopReason) =
        Outcome(prefill, Run(decoded, decoding.elapsedNow().toDouble(DurationUnit.SECONDS)), reason)
    while (true) {
        if (generated == maxTokens) return ended(StopReason.MAX_TOKENS)
        last?.let {
            if (position >= context) return ended(StopReason.CONTEXT_FULL)
            if (!goOn()) return ended(StopReason.STOPPED)
            logits = feed(intArrayOf(it))
            decoded++
        }
        val token = sampling.pick(logits, random.nextDouble())
        if (token in eosTokenIds) return ended(StopReason.END_OF_TEXT)
        onToken(token)
        generated++
        last = token
    }
}
