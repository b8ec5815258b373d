package edgeqkv.sample

import edgeqkv.core.Bundle
import edgeqkv.core.EdgeQkvException
import edgeqkv.core.Session
import edgeqkv.core.SessionTextModel
import edgeqkv.core.Software
import edgeqkv.core.TextModel
import edgeqkv.core.Tokenizer
import java.io.File

/** A bundle whose files are those that were exported, and that this app can run. */
class Opened(folder: File) {
    val bundle = Bundle(folder).also { it.check() }
    val artifact = TARGETS.firstNotNullOfOrNull { bundle.targets[it] }
        ?: throw EdgeQkvException("the bundle is for ${bundle.targets.keys}; this app runs $TARGETS")
    private val tokenizerFile = bundle.tokenizer
        ?: throw EdgeQkvException("the bundle has no tokenizer: export with --tokenizer tokenizer.json")
    val tokenizer = Tokenizer(tokenizerFile)

    /** Bytes that the budget predicts for the model at most; null if it was exported without one. */
    val predicted = bundle.budget(artifact.target)?.values?.max()

    val runtime
        get() = when (artifact.target) {
            "onnx", "hexagon" -> Software(
                "onnxruntime",
                BuildConfig.ONNXRUNTIME_VERSION,
                artifact.compiled?.let { "QNN, Hexagon ${it.soc}" } ?: "CPU",
            )
            else -> Software("executorch", BuildConfig.EXECUTORCH_VERSION, "XNNPACK")
        }

    fun model(eosTokenIds: Set<Int>): TextModel = when (artifact.target) {
        "onnx", "hexagon" -> SessionTextModel(Session(OnnxRunner(bundle, artifact), artifact), tokenizer, eosTokenIds)
        else -> ExecuTorchTextModel(bundle, artifact, tokenizer, tokenizerFile)
    }

    private companion object {
        val TARGETS = listOf("hexagon", "onnx", "executorch")
    }
}
