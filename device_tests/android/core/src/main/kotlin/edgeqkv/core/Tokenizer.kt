package edgeqkv.core

import java.io.File
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.booleanOrNull
import kotlinx.serialization.json.contentOrNull
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive

/**
 * Text to token ids and back, from a Hugging Face `tokenizer.json` with byte-level BPE (GPT-2's kind).
 *
 * What else such a file may ask for is refused by name; take a whole library for it.
 */
class Tokenizer(file: File) {
    private val ids: Map<String, Int>
    private val tokens: Map<Int, String>
    private val ranks: Map<Pair<String, String>, Int>
    private val special: Set<Int>
    private val added: Regex?

    init {
        val content = Json.parseToJsonElement(file.readText()).jsonObject
        val model = content.getValue("model").jsonObject
        checkSupported(file, content, model)
        val adds = content["added_tokens"].objects()
        val addedIds = adds.associate { it.text("content") to it.getValue("id").jsonPrimitive.int }
        ids = model.getValue("vocab").jsonObject.mapValues { it.value.jsonPrimitive.int } + addedIds
        tokens = ids.entries.associate { (token, id) -> id to token }
        special = adds.filter { it.isTrue("special") }.map { it.getValue("id").jsonPrimitive.int }.toSet()
        ranks = model.getValue("merges").jsonArray.withIndex().associate { (rank, merge) -> pair(merge) to rank }
        added = addedIds.keys.sortedByDescending { it.length }.joinToString("|") { Regex.escape(it) }
            .takeIf { it.isNotEmpty() }?.let(::Regex)
    }

    /** Token ids of a text, with nothing added to it. */
    fun encode(text: String): IntArray {
        val found = mutableListOf<Int>()
        var start = 0
        for (match in added?.findAll(text) ?: emptySequence()) {
            encodePlain(text.substring(start, match.range.first), found)
            found += ids.getValue(match.value)
            start = match.range.last + 1
        }
        encodePlain(text.substring(start), found)
        return found.toIntArray()
    }

    /** The text of token ids, without special tokens. */
    fun decode(ids: IntArray): String {
        val stream = Stream()
        return ids.joinToString("") { stream.add(it) } + stream.end()
    }

    /** Text piece by piece, never splitting a character that spans several tokens. */
    inner class Stream {
        private var pending = ByteArray(0)

        /** The text that a token completes; empty while a character is not whole. */
        fun add(id: Int): String {
            if (id in special) return ""
            pending += tokens.getValue(id).map { BYTES.getValue(it) }.toByteArray()
            val whole = pending.size - unfinished(pending)
            return String(pending, 0, whole, Charsets.UTF_8).also { pending = pending.copyOfRange(whole, pending.size) }
        }

        /** What is left, should the text end inside a character. */
        fun end(): String = String(pending, Charsets.UTF_8).also { pending = ByteArray(0) }
    }

    private fun encodePlain(text: String, found: MutableList<Int>) {
        for (word in WORDS.findAll(text)) {
            val letters = word.value.toByteArray().map { LETTERS.getValue(it).toString() }
            merged(letters).mapTo(found) { ids.getValue(it) }
        }
    }

    /** Join the neighbours that were joined first in training, until no pair is left that was. */
    private fun merged(letters: List<String>): List<String> {
        var parts = letters
        while (parts.size > 1) {
            val best = parts.zipWithNext().minBy { ranks[it] ?: Int.MAX_VALUE }
            if (best !in ranks) break
            val joined = mutableListOf<String>()
            var index = 0
            while (index < parts.size) {
                val matches = index + 1 < parts.size && parts[index] == best.first && parts[index + 1] == best.second
                joined += if (matches) best.first + best.second else parts[index]
                index += if (matches) 2 else 1
            }
            parts = joined
        }
        return parts
    }

    private companion object {
        /** Unicode's white space, spelled out because `\s` means different things to regular expressions. */
        const val SPACE = "\\t-\\r \\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000"

        /** GPT-2's pattern: contractions, words, numbers, other signs, white space. */
        val WORDS = Regex(
            "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^$SPACE\\p{L}\\p{N}]+|[$SPACE]+(?![^$SPACE])|[$SPACE]+",
        )

        /** The letter that stands for each byte: itself where it is printable, else one from U+0100 on. */
        val LETTERS: Map<Byte, Char> = buildMap {
            val printable = ('!'..'~') + ('¡'..'¬') + ('®'..'ÿ')
            printable.forEach { put(it.code.toByte(), it) }
            (0..255).map { it.toByte() }.filter { it !in this }.forEachIndexed { index, byte ->
                put(byte, (256 + index).toChar())
            }
        }
        val BYTES: Map<Char, Byte> = LETTERS.entries.associate { (byte, letter) -> letter to byte }

        /** How many bytes at the end are the beginning of a character. */
        fun unfinished(bytes: ByteArray): Int {
            for (back in 1..minOf(3, bytes.size)) {
                val byte = bytes[bytes.size - back].toInt() and 0xff
                if (byte and 0xc0 == 0x80) continue
                val length = if (byte >= 0xf0) 4 else if (byte >= 0xe0) 3 else if (byte >= 0xc0) 2 else 1
                return if (length > back) back else 0
            }
            return 0
        }

        fun pair(merge: JsonElement): Pair<String, String> {
            val parts = (merge as? JsonArray)?.map { it.jsonPrimitive.content }
            val (first, second) = parts ?: merge.jsonPrimitive.content.split(" ", limit = 2)
            return first to second
        }

        fun checkSupported(file: File, content: JsonObject, model: JsonObject) {
            val splitter = content["pre_tokenizer"] as? JsonObject
            val wrong = listOfNotNull(
                "a model of another type than BPE".takeIf { model.textOrNull("type") != "BPE" },
                "a normalizer".takeIf { content["normalizer"] !in listOf(null, JsonNull) },
                "another pre_tokenizer than ByteLevel".takeIf { splitter?.textOrNull("type") != "ByteLevel" },
                "add_prefix_space".takeIf { splitter?.isTrue("add_prefix_space") == true },
                "a ByteLevel without its pattern".takeIf { splitter?.isFalse("use_regex") == true },
                "byte_fallback".takeIf { model.isTrue("byte_fallback") },
                "ignore_merges".takeIf { model.isTrue("ignore_merges") },
                "affixes of words".takeIf {
                    val names = listOf("continuing_subword_prefix", "end_of_word_suffix")
                    names.any { !model.textOrNull(it).isNullOrEmpty() }
                },
                "added tokens that take in their surroundings".takeIf {
                    content["added_tokens"].objects().any { token ->
                        listOf("single_word", "lstrip", "rstrip", "normalized").any { token.isTrue(it) }
                    }
                },
            )
            if (wrong.isNotEmpty()) {
                val what = wrong.joinToString()
                throw EdgeQkvException("${file.name} asks for $what, which this small reader cannot do")
            }
        }

        fun JsonElement?.objects() = (this as? JsonArray).orEmpty().map { it.jsonObject }

        fun JsonObject.textOrNull(name: String) = (get(name) as? JsonPrimitive)?.contentOrNull

        fun JsonObject.isTrue(name: String) = (get(name) as? JsonPrimitive)?.booleanOrNull == true

        fun JsonObject.isFalse(name: String) = (get(name) as? JsonPrimitive)?.booleanOrNull == false
    }
}
