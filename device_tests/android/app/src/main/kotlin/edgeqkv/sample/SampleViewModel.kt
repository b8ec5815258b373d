package edgeqkv.sample

import android.app.Application
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.setValue
import androidx.lifecycle.AndroidViewModel
import edgeqkv.core.Artifact
import edgeqkv.core.Bundle
import edgeqkv.core.DeviceReport
import edgeqkv.core.EdgeQkvException
import edgeqkv.core.Outcome
import edgeqkv.core.Session
import edgeqkv.core.SessionTextModel
import edgeqkv.core.Software
import edgeqkv.core.StateUpdate
import edgeqkv.core.TextModel
import edgeqkv.core.Thermal
import edgeqkv.core.Tokenizer
import edgeqkv.core.measure
import java.io.File
import java.time.Instant
import java.util.concurrent.Executors

/** The sample's state and what its buttons do. Models run on one thread of their own, never on the screen's. */
class SampleViewModel(application: Application) : AndroidViewModel(application) {
    var facts by mutableStateOf("")
        private set
    var text by mutableStateOf("")
        private set
    var running by mutableStateOf(false)
        private set

    /** The last measurement, as `device-report.json`. */
    var report by mutableStateOf<String?>(null)
        private set

    private val worker = Executors.newSingleThreadExecutor()
    private val phone = Phone(application)
    private val folder = File(application.getExternalFilesDir(null), "bundle")
    private lateinit var bundle: Bundle
    private lateinit var artifact: Artifact
    private lateinit var tokenizerFile: File
    private lateinit var tokenizer: Tokenizer

    @Volatile
    private var model: TextModel? = null

    init {
        onWorker {
            bundle = Bundle(folder)
            bundle.check()
            artifact = TARGETS.firstNotNullOfOrNull { bundle.targets[it] }
                ?: throw EdgeQkvException("the bundle is for ${bundle.targets.keys}; this app runs $TARGETS")
            tokenizerFile = bundle.tokenizer
                ?: throw EdgeQkvException("the bundle has no tokenizer: export with --tokenizer tokenizer.json")
            tokenizer = Tokenizer(tokenizerFile)
            facts = describe()
        }
    }

    fun generate(prompt: String, temperature: Double) = onWorker {
        text = prompt
        val model = model ?: open(bundle.eosTokenIds).also { model = it }
        val outcome = model.generate(prompt, MAX_TOKENS, temperature) { text += it }
        facts = "${describe()}\n${describe(outcome)}"
    }

    fun stop() = model?.stop() ?: Unit

    /**
     * Measure a run that fills the context, with a model opened for it alone, and write `device-report.json`.
     *
     * Memory is counted above what the app takes before. A runtime's library stays once it is loaded, so only the first
     * thing that an app does with a model shows all that it costs.
     */
    fun measure() = onWorker {
        text = "Measuring…"
        model?.close()
        val before = phone.thermalStatus()
        val measured = try {
            measure(artifact.context, tokenizer, phone::pssBytes) { open(eosTokenIds = emptySet()).also { model = it } }
        } finally {
            model = null
        }
        val written = DeviceReport(
            date = Instant.now().toString(),
            app = Software("edgeqkv-android", BuildConfig.VERSION_NAME),
            device = phone.device,
            system = phone.system,
            runtime = runtime(),
            manifestSha256 = bundle.sha256,
            target = artifact.target,
            measurement = measured,
            memoryFigure = Phone.MEMORY_FIGURE,
            stateBytes = artifact.stateBytes.takeIf { artifact.stateTensors.none { it.update == StateUpdate.RUNTIME } },
            thermal = Thermal(before, phone.thermalStatus()),
        ).toJson()
        File(folder.parentFile, "device-report.json").writeText(written)
        report = written
        text = written
        facts = "${describe()}\n${describe(measured.outcome)}"
    }

    override fun onCleared() {
        stop()
        worker.execute { model?.close() }
        worker.shutdown()
    }

    private fun open(eosTokenIds: Set<Int>): TextModel = when (artifact.target) {
        "onnx", "hexagon" -> SessionTextModel(Session(OnnxRunner(bundle, artifact), artifact), tokenizer, eosTokenIds)
        else -> ExecuTorchTextModel(bundle, artifact, tokenizer, tokenizerFile)
    }

    private fun runtime() = when (artifact.target) {
        "onnx", "hexagon" -> Software(
            "onnxruntime",
            BuildConfig.ONNXRUNTIME_VERSION,
            artifact.compiled?.let { "QNN, Hexagon ${it.soc}" } ?: "CPU",
        )
        else -> Software("executorch", BuildConfig.EXECUTORCH_VERSION, "XNNPACK")
    }

    private fun describe(): String {
        val predicted = bundle.budget(artifact.target)?.values?.max()
        return listOfNotNull(
            "${bundle.variant}, ${artifact.target} ${artifact.form}, ${artifact.weights} weights",
            "context ${artifact.context}, KV state ${artifact.stateBytes.megabytes()}",
            predicted?.let { "the budget predicts ${it.megabytes()} for the model" },
            "this process takes ${phone.pssBytes().megabytes()} (PSS), the app's own included",
        ).joinToString("\n")
    }

    private fun describe(outcome: Outcome) =
        "prefill %.0f tokens/s, decode %.1f tokens/s".format(
            outcome.prefill.tokensPerSecond,
            outcome.decode.tokensPerSecond,
        )

    /** Do something on the models' thread; what goes wrong is shown. */
    private fun onWorker(block: () -> Unit) {
        running = true
        worker.execute {
            try {
                block()
            } catch (error: Exception) {
                facts = error.message ?: error.toString()
            } finally {
                running = false
            }
        }
    }

    private companion object {
        val TARGETS = listOf("hexagon", "onnx", "executorch")
        const val MAX_TOKENS = 200

        fun Long.megabytes() = "%.1f MB".format(this / 1e6)
    }
}
