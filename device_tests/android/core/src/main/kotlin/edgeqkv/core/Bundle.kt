package edgeqkv.core

import java.io.File
import java.security.MessageDigest
import kotlinx.serialization.SerializationException
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import kotlinx.serialization.json.long

/** A bundle, a prompt or a setting that cannot be used: what is wrong, with which value, and what to do about it. */
class EdgeQkvException(message: String) : Exception(message)

/** The folder that `edgeqkv export` wrote, read through its `manifest.json`. */
class Bundle(val folder: File) {
    /** The SHA-256 of the manifest: what a device report calls this bundle. */
    val sha256: String
    val variant: String
    val targets: Map<String, Artifact>
    val tokenizer: File?
    val eosTokenIds: Set<Int>

    /** What stands around the messages of a conversation; null where the model has no template that is only that. */
    val chat: ChatCard?
    private val files: Map<String, FileCard>

    init {
        val file = File(folder, "manifest.json")
        if (!file.isFile) throw EdgeQkvException("there is no bundle in $folder: it has no manifest.json")
        sha256 = sha256(file)
        val manifest = parse(file)
        val format = manifest["format"]?.toString()
        if (format != "$FORMAT") {
            val help = if (format == "1") "Export the model again" else "Update this app, or export the model again"
            throw EdgeQkvException("$file is of format $format, and this app reads format $FORMAT. $help")
        }
        try {
            val model = manifest["model"].fields
            val kind = model.text("kind")
            if (kind != "decoder") throw EdgeQkvException("$folder holds an $kind, which continues no text")
            variant = model.text("variant")
            targets = manifest["targets"].fields.mapValues { (_, card) -> Artifact.of(card.fields["artifact"].fields) }
            val card = manifest["tokenizer"].takeUnless { it is JsonNull }?.fields
            tokenizer = card?.let { File(folder, it.text("file")) }
            val ends = card?.getValue("eos_token_ids")?.jsonArray.orEmpty()
            eosTokenIds = ends.map { it.jsonPrimitive.int }.toSet()
            chat = card?.get("chat")?.takeUnless { it is JsonNull }?.let { ChatCard.of(it.fields) }
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
        /** Of the manifest; 1 had no roles. */
        const val FORMAT = 2

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
