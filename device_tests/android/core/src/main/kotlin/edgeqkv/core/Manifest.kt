package edgeqkv.core

import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.boolean
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive

// The records of `manifest.json` that an app reads; all of them are described in edgeqkv/bundle/manifest.py.

/** The type of a tensor's numbers. */
enum class Dtype(val bytes: Int) { FP32(4), FP16(2), INT8(1), UINT8(1), INT32(4), INT64(8), BOOL(1) }

/** What an input is filled with, or what an output holds. Graphs are called by this, never by names. */
enum class Role { TOKENS, POSITIONS, START, LENGTH, LOGIT_INDEX, MASK, PIXELS, FEATURES, IMAGE, LOGITS, STATE }

/** Who writes new rows to a state tensor: the graph where it lies, the caller who gets them alone, or the runtime. */
enum class StateUpdate { IN_PLACE, ROWS, RUNTIME }

/** One size of a shape: a number, or the name of what varies from call to call. */
sealed interface Size {
    data class Fixed(val size: Int) : Size

    data class Named(val name: String) : Size
}

/** An input or output of a graph. */
data class TensorSpec(val name: String, val dtype: Dtype, val shape: List<Size>, val role: Role)

/**
 * One thing that can be called: a file, or a method in one, that takes up to [tokens] tokens (exactly, if [fixed]) and
 * reads [window] positions of the state (null: all).
 */
data class Graph(
    val name: String,
    val file: String,
    val tokens: Int,
    val fixed: Boolean,
    val window: Int?,
    val inputs: List<TensorSpec>,
    val outputs: List<TensorSpec>,
) {
    /** The output that everybody wants. */
    val logits: TensorSpec
        get() = outputs.first { it.role == Role.LOGITS }

    fun has(role: Role): Boolean = inputs.any { it.role == role }
}

/**
 * One tensor of the KV state (the KV cache). [aliases] are further outputs that hold the same, [zero] is the code that
 * a new state is filled with.
 */
data class StateTensor(
    val name: String,
    val dtype: Dtype,
    val shape: List<Int>,
    val update: StateUpdate,
    val input: String?,
    val output: String?,
    val aliases: List<String>,
    val zero: Int = 0,
) {
    val bytes: Long
        get() = shape.fold(dtype.bytes.toLong(), Long::times)
}

/** What a chip's compiler made of the graphs: by a graph's name, the file to open in its place. */
data class Compiled(val soc: String, val graphs: Map<String, String>)

/** One target's export of a language model. */
data class Artifact(
    val target: String,
    val form: String,
    val weights: String,
    val context: Int,
    val chunk: Int,
    val vocabulary: Int,
    val axes: List<String>,
    val graphs: List<Graph>,
    val stateTensors: List<StateTensor>,
    val compiled: Compiled? = null,
) {
    /** Memory that the KV state takes, in bytes. */
    val stateBytes: Long
        get() = stateTensors.sumOf { it.bytes }

    internal companion object {
        fun of(card: JsonObject) = Artifact(
            target = card.text("target"),
            form = card.text("form"),
            weights = card.text("weights"),
            context = card.number("context").toInt(),
            chunk = card.number("chunk").toInt(),
            vocabulary = card.number("vocab_size").toInt(),
            axes = card.list("axes") { it.jsonPrimitive.content },
            graphs = card.list("graphs") { graph(it.jsonObject) },
            stateTensors = card.list("state_tensors") { stateTensor(it.jsonObject) },
            compiled = card["compiled"].orNull()?.let { compiled(it.jsonObject) },
        )

        private fun compiled(card: JsonObject) = Compiled(
            soc = card.text("soc"),
            graphs = card.getValue("graphs").jsonObject.mapValues { (_, file) -> file.jsonPrimitive.content },
        )

        private fun graph(card: JsonObject) = Graph(
            name = card.text("name"),
            file = card.text("file"),
            tokens = card.number("tokens").toInt(),
            fixed = card.getValue("fixed").jsonPrimitive.boolean,
            window = card["window"].orNull()?.jsonPrimitive?.int,
            inputs = card.list("inputs") { tensorSpec(it.jsonObject) },
            outputs = card.list("outputs") { tensorSpec(it.jsonObject) },
        )

        private fun tensorSpec(card: JsonObject) = TensorSpec(
            name = card.text("name"),
            dtype = card.of("dtype"),
            shape = card.list("shape") { size(it.jsonPrimitive) },
            role = card.of("role"),
        )

        private fun stateTensor(card: JsonObject) = StateTensor(
            name = card.text("name"),
            dtype = card.of("dtype"),
            shape = card.list("shape") { it.jsonPrimitive.int },
            update = card.of("update"),
            input = card["input"].orNull()?.jsonPrimitive?.content,
            output = card["output"].orNull()?.jsonPrimitive?.content,
            aliases = card.list("aliases") { it.jsonPrimitive.content },
            zero = card["zero"].orNull()?.jsonPrimitive?.int ?: 0,
        )

        private fun size(value: JsonPrimitive) =
            if (value.isString) Size.Named(value.content) else Size.Fixed(value.int)

        private fun JsonElement?.orNull() = this?.takeUnless { it is JsonNull }

        private fun <T> JsonObject.list(name: String, each: (JsonElement) -> T): List<T> =
            getValue(name).jsonArray.map(each)

        private inline fun <reified T : Enum<T>> JsonObject.of(name: String): T = enumValueOf(text(name).uppercase())
    }
}

/** What a file must be to be the one that was written. */
data class FileCard(val bytes: Long, val sha256: String)
