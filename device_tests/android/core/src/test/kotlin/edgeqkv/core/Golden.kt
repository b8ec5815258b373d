package edgeqkv.core

import java.io.File
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.double
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

    /** Exports of every target, by name. */
    fun artifact(name: String) = Artifact.of(all.getValue("artifacts").jsonObject.getValue(name).jsonObject)

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

fun JsonObject.lists(name: String) = getValue(name).pairs()

fun JsonElement.pairs() = jsonArray.map { pair -> pair.jsonArray.map { it.jsonPrimitive.int } }

fun JsonObject.numbers(name: String) = (getValue(name) as JsonArray).map { it.jsonPrimitive.double }

/** `fake_logits` of device_tests/golden.py. */
fun fakeLogits(token: Int, position: Int) =
    FloatArray(Golden.vocabulary) { ((token * 7 + it * (13 + position) + position * 3) % 23).toFloat() }

/** That model as what runs an artifact, and the calls that were made. */
class FakeRunner : Runner {
    val calls = mutableListOf<Call>()

    /** Tokens, position. */
    val places
        get() = calls.map { listOf(it.ids.size, it.position) }

    override fun run(call: Call): FloatArray {
        calls += call
        val every = call.graph.logits.shape.contains(Size.Named("tokens"))
        val rows = if (every) call.ids.indices else call.ids.indices.last..call.ids.indices.last
        return rows.map { fakeLogits(call.ids[it], call.position + it).toList() }.flatten().toFloatArray()
    }

    override fun close() = Unit
}

fun session(runner: Runner, artifact: String = "onnx") = Session(runner, Golden.artifact(artifact))
