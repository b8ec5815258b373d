package edgeqkv.sample

import edgeqkv.core.Artifact
import edgeqkv.core.Bundle
import edgeqkv.core.EdgeQkvException
import edgeqkv.core.Outcome
import edgeqkv.core.Role
import edgeqkv.core.StopReason
import edgeqkv.core.TextModel
import edgeqkv.core.Tokenizer
import edgeqkv.core.executorchLength
import edgeqkv.core.executorchOutcome
import java.io.File
import org.pytorch.executorch.extension.llm.LlmCallback
import org.pytorch.executorch.extension.llm.LlmGenerationConfig
import org.pytorch.executorch.extension.llm.LlmModule

/** A `.pte` in ExecuTorch's own runner, which tokenizes and samples by itself, if it has the method that that calls. */
class ExecuTorchTextModel(
    bundle: Bundle,
    private val artifact: Artifact,
    private val tokenizer: Tokenizer,
    tokenizerFile: File,
) : TextModel {
    private val module: LlmModule

    @Volatile
    private var stopping = false

    init {
        val graph = artifact.graphs.find { graph ->
            graph.name == METHOD && graph.inputs.map { it.role } == INPUTS
        } ?: throw EdgeQkvException(
            "ExecuTorch's runner calls '$METHOD', which the form ${artifact.form} lacks: export with --form stock",
        )
        module = LlmModule(File(bundle.folder, graph.file).path, tokenizerFile.path, 0.0f)
        module.load()
    }

    override fun generate(prompt: String, maxTokens: Int?, temperature: Double, onText: (String) -> Unit): Outcome {
        stopping = false
        module.resetContext()
        var told: String? = null
        val callback = object : LlmCallback {
            override fun onResult(result: String) = onText(result)

            override fun onStats(stats: String) {
                told = stats
            }
        }
        // LlmModule passes on the sequence length, but not maxNewTokens.
        val config = LlmGenerationConfig.create()
            .seqLen(executorchLength(artifact, tokenizer.encode(prompt).size, maxTokens))
            .temperature(temperature.toFloat())
            .echo(false)
            .build()
        module.generate(prompt, config, callback)
        val stats = told ?: throw EdgeQkvException("ExecuTorch's runner told no statistics of the generation")
        return executorchOutcome(stats).copy(stopped = StopReason.STOPPED.takeIf { stopping })
    }

    override fun stop() {
        stopping = true
        module.stop()
    }

    override fun close() = module.close()

    private companion object {
        // The runner's own convention: it reads no manifest.
        const val METHOD = "forward"
        val INPUTS = listOf(Role.TOKENS, Role.START)
    }
}
