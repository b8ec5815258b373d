package edgeqkv.core

import java.io.File
import java.security.MessageDigest
import kotlinx.serialization.SerializationException
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.boolean
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import kotlinx.serialization.json.long

/** A bundle, a prompt or a setting that cannot be used: what is wrong, with which value, and what to do about it. */
class EdgeQkvException(message: String) : Exception(message)

/** One thing that can be called: a file, or a method in one, that takes up to [tokens] tokens (exactly, if [fixed]). */
data class Graph(val name: String, val file: String, val tokens: Int, val fixed: Boolean)

/** One tensor of the KV state, bound to the graph's [input] and to all of its [outputs]. */
data class StateTensor(
    val name: String,
    val dtype: String,
    val shape: List<Long>,
    val input: String?,
    val outputs: List<String>,
)

/** One target's export; see `edgeqkv/artifact.py`. */
data class Artifact(
    val target: String,
    val form: String,
    val weights: String,
    val state: String,
    val context: Int,
    val chunk: Int,
    val vocabulary: Int,
    val graphs: List<Graph>,
    val stateTensors: List<StateTensor>,
) {
    /** Memory that the KV state takes, in bytes. */
    val stateBytes: Long
        get() = stateTensors.sumOf { it.shape.reduce(Long::times) * ELEMENT_BYTES.getValue(it.dtype) }

    companion object {
        val ELEMENT_BYTES = mapOf("fp32" to 4, "fp16" to 2, "int8" to 1)
    }
}

/** What a file must be to be the one that was written. */
data class FileCard(val bytes: Long, val sha256: String)

/** The folder that `edgeqkv export` wrote, read through its `manifest.json`. */
class Bundle(val folder: File) {
    /** The SHA-256 of the manifest: what a device report calls this bundle. */
    val sha256: String
    val variant: String
    val targets: Map<String, Artifact>
    val tokenizer: File?
    val eosIds: Set<Int>
    private val files: Map<String, FileCard>

    init {
        val file = File(folder, "manifest.json")
        if (!file.isFile) throw EdgeQkvException("there is no bundle in $folder: it has no manifest.json")
        sha256 = sha256(file)
        val manifest = parse(file)
        val format = manifest["format"]?.toString()
        if (format != "$FORMAT") {
            throw EdgeQkvException("$file is of format $format, and this app reads format $FORMAT: update one of them")
        }
        try {
            variant = manifest["model"].fields.text("variant")
            targets = manifest["targets"].fields.mapValues { (_, card) -> artifact(card.fields["artifact"].fields) }
            val card = manifest["tokenizer"].takeUnless { it is JsonNull }?.fields
            tokenizer = card?.let { File(folder, it.text("file")) }
            eosIds = card?.get("eos_ids")?.jsonArray?.map { it.jsonPrimitive.int }?.toSet() ?: emptySet()
            files = manifest["files"].fields.mapValues { (_, card) ->
                FileCard(card.fields.number("bytes"), card.fields.text("sha256"))
            }
        } catch (error: RuntimeException) {  // a field is missing, or is of another type
            throw EdgeQkvException("$file is damaged: ${error.message}. Export the model again")
        }
    }

    /** The named target's export. */
    fun target(name: String): Artifact =
        targets[name] ?: throw EdgeQkvException("$folder holds ${targets.keys}, not '$name'")

    /** Compare every file with its checksum: what was copied is what was exported. */
    fun check() {
        for ((name, card) in files) {
            val file = File(folder, name)
            if (!file.isFile) throw EdgeQkvException("the bundle is incomplete: '$name' is missing. Copy it again")
            if (file.length() != card.bytes || sha256(file) != card.sha256) {
                throw EdgeQkvException("'$name' is not the file that was exported. Copy the bundle again")
            }
        }
    }

    /** Bytes that the budget in the bundle predicts for a target, by phase; null if it was exported without one. */
    fun budget(target: String): Map<String, Long>? {
        val file = File(folder, "report.json").takeIf { it.isFile } ?: return null
        val candidates = parse(file).getValue("candidates").jsonArray.map { it.jsonObject }
        val candidate = candidates.find { it.text("target") == target } ?: return null
        return candidate["phases"].fields.mapValues { (_, bytes) -> bytes.jsonPrimitive.long }
    }

    companion object {
        const val FORMAT = 1

        private fun artifact(card: JsonObject) = Artifact(
            target = card.text("target"),
            form = card.text("form"),
            weights = card.text("weights"),
            state = card.text("state"),
            context = card.number("context").toInt(),
            chunk = card.number("chunk").toInt(),
            vocabulary = card.number("vocab_size").toInt(),
            graphs = card.getValue("graphs").jsonArray.map { it.jsonObject }.map {
                Graph(
                    it.text("name"),
                    it.text("file"),
                    it.number("tokens").toInt(),
                    it.getValue("fixed").jsonPrimitive.boolean,
                )
            },
            stateTensors = card.getValue("state_tensors").jsonArray.map { it.jsonObject }.map {
                StateTensor(
                    name = it.text("name"),
                    dtype = it.text("dtype"),
                    shape = it.getValue("shape").jsonArray.map { size -> size.jsonPrimitive.long },
                    input = it["input"].takeUnless { name -> name is JsonNull }?.jsonPrimitive?.content,
                    outputs = (listOf(it.getValue("output")) + (it.getValue("aliases") as JsonArray))
                        .filterNot { name -> name is JsonNull }
                        .map { name -> name.jsonPrimitive.content },
                )
            },
        )

        private fun parse(file: File): JsonObject =
            try {
                Json.parseToJsonElement(file.readText()).jsonObject
            } catch (error: SerializationException) {
                throw EdgeQkvException("$file is damaged: ${error.message}")
            } catch (error: IllegalArgumentException) {
                throw EdgeQkvException("$file is damaged: ${error.message}")
            }

        private fun sha256(file: File): String {
            val digest = MessageDigest.getInstance("SHA-256")
            file.inputStream().use { stream ->
                val block = ByteArray(1 shl 16)
                generateSequence { stream.read(block) }.takeWhile { it >= 0 }.forEach { digest.update(block, 0, it) }
            }
            return digest.digest().joinToString("") { "%02x".format(it) }
        }
    }
}
