package edgeqkv.core

import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.boolean
import kotlinx.serialization.json.jsonPrimitive

// The same as `written` in edgeqkv/run/turns.py: a chat template that writes text around messages, without Jinja.

/** Who says something in a conversation. */
enum class Speaker { SYSTEM, USER, ASSISTANT }

/** A message of a conversation. */
data class Message(val speaker: Speaker, val content: String)

/** What stands around the system's message. */
data class SystemAffixes(val before: String, val after: String)

/**
 * The text that a chat template writes around messages: [first] before the user's first, [answered] between one and the
 * answer to it, [next] between that and the user's next, [answer] where the model's own begins. With a message of the
 * [system], its affixes stand in the place of [first].
 */
data class ChatCard(
    val first: String,
    val answered: String,
    val next: String,
    val answer: String,
    val trimmed: Boolean,
    val system: SystemAffixes?,
) {
    /** The text of a conversation that begins and ends with the user's message, up to where the answer begins. */
    fun written(messages: List<Message>): String = buildString {
        var before = first
        for (message in messages) {
            val content = if (trimmed) message.content.trim() else message.content
            when (message.speaker) {
                Speaker.SYSTEM -> {
                    val around = system ?: throw EdgeQkvException("this model's template takes no system message")
                    append(around.before, content)
                    before = around.after
                }
                Speaker.USER -> append(before, content).also { before = answered }
                Speaker.ASSISTANT -> append(before, content).also { before = next }
            }
        }
        append(answer)
    }

    internal companion object {
        fun of(card: JsonObject) = ChatCard(
            first = card.text("first"),
            answered = card.text("answered"),
            next = card.text("next"),
            answer = card.text("answer"),
            trimmed = card.getValue("trimmed").jsonPrimitive.boolean,
            system = card["system"].takeUnless { it is JsonNull || it == null }?.fields?.let {
                SystemAffixes(it.text("before"), it.text("after"))
            },
        )
    }
}
