package edgeqkv.core

import java.io.File
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive

/** The cases that edgeqkv computed: device_tests/golden.json, whose folder the property `device_tests` names. */
object Golden {
    private val folder = File(System.getProperty("device_tests"))
    private val all = Json.parseToJsonElement(File(folder, "golden.json").readText()).jsonObject

    /** The built-in model's. */
    val tokenizer = File(folder, "../edgeqkv/demo/tokenizer.json")

    val bundle = all.getValue("bundle").jsonObject
    val vocabulary = all.number("model", "vocabulary")
    val context = all.number("model", "context")
    val chunk = all.number("model", "chunk")

    fun cases(name: String): List<JsonObject> = all.getValue(name).jsonArray.map { it.jsonObject }

    /** A new folder with the bundle in it, its manifest changed. */
    fun bundle(change: (String) -> String = { it }): File {
        val made = kotlin.io.path.createTempDirectory("bundle").toFile()
        bundle.getValue("files").jsonObject.forEach { (name, text) ->
            File(made, name).writeText(text.jsonPrimitive.content)
        }
        File(made, "manifest.json").writeText(change(bundle.getValue("manifest").jsonPrimitive.content))
        return made
    }

    private fun JsonObject.number(part: String, name: String) = getValue(part).jsonObject.number(name).toInt()
}

fun JsonObject.ints(name: String) = (getValue(name) as JsonArray).map { it.jsonPrimitive.int }

fun JsonElement.pairs() = jsonArray.map { pair -> pair.jsonArray.map { it.jsonPrimitive.int } }

/** `fake_logits` of device_tests/golden.py, and the calls that were made: tokens, position. */
class FakeDecoder : Decoder {
    val calls = mutableListOf<List<Int>>()

    override fun step(ids: IntArray, position: Int): FloatArray {
        calls += listOf(ids.size, position)
        val last = position + ids.size - 1
        return FloatArray(Golden.vocabulary) { ((ids.last() * 7 + it * (13 + last) + last * 3) % 23).toFloat() }
    }

    override fun close() = Unit
}

fun session(decoder: Decoder, chunk: Int = Golden.chunk, fixed: Boolean = false) =
    Session(decoder, Golden.context, chunk, Golden.vocabulary, fixed)
