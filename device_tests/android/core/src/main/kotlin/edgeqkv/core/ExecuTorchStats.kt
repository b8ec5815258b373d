package edgeqkv.core

import kotlinx.serialization.json.Json
import kotlinx.serialization.json.jsonObject

/**
 * What ExecuTorch's runner tells of a generation, as `stats_to_json_string` in its `extension/llm/runner/stats.h`
 * writes it: times in milliseconds; the tokens generated are those after the first, which is the prompt's.
 */
fun executorchOutcome(stats: String): Outcome {
    val told = Json.parseToJsonElement(stats).jsonObject
    fun run(tokens: String, from: String, to: String) =
        Run(told.number(tokens).toInt(), maxOf(told.number(to) - told.number(from), 1) / 1000.0)
    return Outcome(
        prefill = run("prompt_tokens", "inference_start_ms", "prompt_eval_end_ms"),
        decode = run("generated_tokens", "prompt_eval_end_ms", "inference_end_ms"),
        stopped = null,
    )
}

/**
 * The sequence length to ask ExecuTorch's runner for (`TextLLMRunner::generate`, 1.4.1).
 *
 * It takes an export whose chunk is shorter than its context for one with a sliding window. Its limit then counts
 * the new tokens alone, and nothing stops it at the end of the context; otherwise the limit counts the prompt too.
 *
 * @param maxTokens new tokens at most; null: until the context is full.
 */
fun executorchLength(artifact: Artifact, promptTokens: Int, maxTokens: Int?): Int {
    // The last token that is generated is not fed any more, and so needs no position.
    val room = artifact.context - promptTokens + 1
    if (promptTokens >= artifact.context) {
        throw ContextFull("a prompt of $promptTokens tokens leaves no room in a context of ${artifact.context}")
    }
    val new = minOf(maxTokens ?: room, room)
    return if (artifact.chunk < artifact.context) new else minOf(promptTokens + new, artifact.context)
}
