package edgeqkv.sample

import android.app.Application
import android.net.Uri
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.setValue
import androidx.lifecycle.AndroidViewModel
import edgeqkv.core.DeviceReport
import edgeqkv.core.EdgeQkvException
import edgeqkv.core.Message
import edgeqkv.core.Outcome
import edgeqkv.core.Software
import edgeqkv.core.Speaker
import edgeqkv.core.StateUpdate
import edgeqkv.core.StopReason
import edgeqkv.core.TextModel
import edgeqkv.core.Thermal
import edgeqkv.core.measure
import java.io.File
import java.time.Instant
import java.util.concurrent.Executors

/** The sample's state and what its buttons do. Models run on one thread of their own, never on the screen's. */
class SampleViewModel(application: Application) : AndroidViewModel(application) {
    /** What is known of the bundle. */
    var facts by mutableStateOf("")
        private set

    /** What went wrong, or how fast it went. */
    var status by mutableStateOf("")
        private set
    var text by mutableStateOf("")
        private set
    var running by mutableStateOf(false)
        private set

    /** Whether a bundle is open. */
    var open by mutableStateOf(false)
        private set

    /** Whether its model can chat. */
    var chats by mutableStateOf(false)
        private set

    /** The last measurement: `device-report.json`. */
    var report by mutableStateOf<File?>(null)
        private set

    private val worker = Executors.newSingleThreadExecutor()
    private val phone = Phone(application)
    private val resolver = application.contentResolver
    private val home = application.getExternalFilesDir(null)
    private val folder = File(home, "bundle")
    private val conversation = mutableListOf<Message>()

    // Of the models' thread alone, but for stop().
    private var opened: Opened? = null

    @Volatile
    private var model: TextModel? = null

    init {
        reload()
    }

    /** Open what lies in the app's folder, again: a bundle that was pushed there since. */
    fun reload() = onWorker {
        forget()
        load()
    }

    /** Copy the bundle in a folder that the user picked into the app's own, where the runtimes can map its files. */
    fun pick(tree: Uri) = onWorker {
        forget()
        status = "Copying the bundle…"
        PickedFolder(resolver, tree).copyBundleTo(folder)
        load()
    }

    fun generate(prompt: String, temperature: Double) = onWorker {
        text = prompt
        val outcome = run(prompt, temperature) { text += it }
        status = outcome.words()
    }

    /** Say something to the model, after all that was said before. */
    fun say(message: String, temperature: Double) = onWorker {
        val chat = needOpened().bundle.chat
            ?: throw EdgeQkvException("this bundle has no chat template. Continue a text instead")
        val asked = conversation + Message(Speaker.USER, message)
        text += (if (conversation.isEmpty()) "" else "\n\n") + "You: $message\n\nModel: "
        val answer = StringBuilder()
        val outcome = run(chat.written(asked), temperature) {
            answer.append(it)
            text += it
        }
        conversation.clear()
        conversation += asked + Message(Speaker.ASSISTANT, answer.toString())
        status = outcome.words()
    }

    /** Begin a new conversation, or an empty page. */
    fun clear() = onWorker {
        conversation.clear()
        text = ""
        status = ""
    }

    fun stop() = model?.stop() ?: Unit

    /**
     * Measure a run that fills the context, with a model opened for it alone, and write `device-report.json`.
     *
     * Memory is counted above what the app takes before. A runtime's library stays once it is loaded, so only the first
     * thing that an app does with a model shows all that it costs.
     */
    fun measure() = onWorker {
        val used = needOpened()
        val artifact = used.artifact
        conversation.clear()
        text = ""
        status = "Measuring…"
        model?.close()
        model = null
        val before = phone.thermalStatus()
        val measured = try {
            measure(artifact.context, used.tokenizer, phone::pssBytes) {
                used.model(eosTokenIds = emptySet()).also { model = it }
            }
        } finally {
            model = null
        }
        val written = DeviceReport(
            date = Instant.now().toString(),
            app = Software("edgeqkv-android", BuildConfig.VERSION_NAME),
            device = phone.device,
            system = phone.system,
            runtime = used.runtime,
            manifestSha256 = used.bundle.sha256,
            target = artifact.target,
            measurement = measured,
            memoryFigure = Phone.MEMORY_FIGURE,
            stateBytes = artifact.stateBytes.takeIf { artifact.stateTensors.none { it.update == StateUpdate.RUNTIME } },
            thermal = Thermal(before, phone.thermalStatus()),
        ).toJson()
        report = File(home, "device-report.json").apply { writeText(written) }
        text = written
        status = measured.outcome.words()
    }

    override fun onCleared() {
        stop()
        worker.execute { model?.close() }
        worker.shutdown()
    }

    private fun run(prompt: String, temperature: Double, onText: (String) -> Unit): Outcome {
        val used = needOpened()
        status = "Writing…"
        val model = model ?: used.model(used.bundle.eosTokenIds).also { model = it }
        return model.generate(prompt, MAX_TOKENS, temperature, onText)
    }

    private fun needOpened() =
        opened ?: throw EdgeQkvException("no bundle is open: open a folder that 'edgeqkv export' wrote")

    private fun load() {
        status = "Reading and checking the bundle…"
        val found = Opened(folder)
        opened = found
        open = true
        chats = found.bundle.chat != null
        facts = found.describe()
        status = ""
    }

    /** Let go of the bundle that is open, before another is. */
    private fun forget() {
        model?.close()
        model = null
        opened = null
        open = false
        chats = false
        conversation.clear()
        facts = ""
        text = ""
    }

    private fun Opened.describe() = listOfNotNull(
        "${bundle.variant}, ${artifact.target} ${artifact.form}, ${artifact.weights} weights",
        "context ${artifact.context}, KV state ${artifact.stateBytes.megabytes()}",
        predicted?.let { "the budget predicts ${it.megabytes()} for the model" },
        "this process takes ${phone.pssBytes().megabytes()} (PSS), the app's own included",
    ).joinToString("\n")

    private fun Outcome.words() = listOfNotNull(
        "prefill %.0f tokens/s, decode %.1f tokens/s".format(prefill.tokensPerSecond, decode.tokensPerSecond),
        ENDINGS[stopped],
    ).joinToString("\n")

    /** Do something on the models' thread; what goes wrong is shown. */
    private fun onWorker(block: () -> Unit) {
        running = true
        worker.execute {
            try {
                block()
            } catch (error: Exception) {
                status = error.message ?: error.toString()
            } finally {
                running = false
            }
        }
    }

    private companion object {
        const val MAX_TOKENS = 200
        val ENDINGS = mapOf(
            StopReason.CONTEXT_FULL to "the context is full: begin anew",
            StopReason.STOPPED to "stopped",
        )

        fun Long.megabytes() = "%.1f MB".format(this / 1e6)
    }
}
