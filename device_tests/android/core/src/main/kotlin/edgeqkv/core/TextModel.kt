package edgeqkv.core

import kotlin.random.Random

/** What continues a text: a session with its tokenizer, or a runtime that brings both. */
interface TextModel : AutoCloseable {
    /** Forget what was before and continue [prompt], telling the text as it grows. Call [stop] from another thread. */
    fun generate(prompt: String, maxTokens: Int?, temperature: Double, onText: (String) -> Unit): Outcome

    /** End the generation that is under way, before its next token. */
    fun stop()
}

/** A [TextModel] of a session: tokenized, sampled and stopped by this package. */
class SessionTextModel(
    private val session: Session,
    private val tokenizer: Tokenizer,
    private val eosTokenIds: Set<Int>,
) : TextModel, AutoCloseable by session {
    @Volatile
    private var stopping = false

    override fun generate(prompt: String, maxTokens: Int?, temperature: Double, onText: (String) -> Unit): Outcome {
        stopping = false
        session.reset()
        val stream = tokenizer.Stream()
        val outcome = session.generate(
            tokenizer.encode(prompt),
            maxTokens,
            Sampling(temperature),
            eosTokenIds,
            Random.Default,
            goOn = { !stopping },
        ) { onText(stream.add(it)) }
        onText(stream.end())
        return outcome
    }

    override fun stop() {
        stopping = true
    }
}
