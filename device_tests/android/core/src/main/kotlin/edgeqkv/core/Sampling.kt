package edgeqkv.core

import kotlin.math.exp

/**
 * How the next token is drawn.
 *
 * @property temperature 0 takes the most likely token; 1 draws from the model's own distribution.
 * @property topK draw among this many of the most likely tokens; 0: among all.
 * @property topP draw among the most likely tokens that together have this probability; 1: among all.
 */
data class Sampling(val temperature: Double = 0.0, val topK: Int = 0, val topP: Double = 1.0) {
    init {
        if (!(temperature >= 0)) throw EdgeQkvException("temperature $temperature is impossible; it is 0 or more")
        if (topK < 0) throw EdgeQkvException("top-k $topK is impossible; it is 0 (off) or more")
        if (!(topP > 0 && topP <= 1)) throw EdgeQkvException("top-p $topP is impossible; it is above 0, at most 1")
    }

    /** The token that [uniform], a random number of [0, 1), picks from the [logits]. */
    fun pick(logits: FloatArray, uniform: Double): Int {
        if (temperature == 0.0) return logits.indices.maxBy { logits[it] }
        val order = logits.indices.sortedByDescending { logits[it] }
        val among = if (topK > 0) order.take(topK) else order
        val weights = among.map { exp((logits[it].toDouble() - logits[among[0]]) / temperature) }
        // The most likely tokens up to and including the one that reaches topP.
        val reach = topP * weights.sum()
        var total = 0.0
        val kept = weights.takeWhile { weight -> (total < reach).also { total += weight } }
        val drawn = uniform * kept.sum()
        var reached = 0.0
        val index = kept.indexOfFirst { weight -> reached += weight; drawn < reached }
        return among[if (index < 0) kept.lastIndex else index]
    }
}
