package edgeqkv.sample

import android.content.Intent
import android.os.Bundle
import androidx.activity.ComponentActivity
import androidx.activity.compose.setContent
import androidx.activity.viewModels
import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxSize
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.layout.safeDrawingPadding
import androidx.compose.foundation.rememberScrollState
import androidx.compose.foundation.verticalScroll
import androidx.compose.material3.Button
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.OutlinedTextField
import androidx.compose.material3.Slider
import androidx.compose.material3.Surface
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableFloatStateOf
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.remember
import androidx.compose.runtime.setValue
import androidx.compose.ui.Modifier
import androidx.compose.ui.semantics.LiveRegionMode
import androidx.compose.ui.semantics.contentDescription
import androidx.compose.ui.semantics.liveRegion
import androidx.compose.ui.semantics.semantics
import androidx.compose.ui.unit.dp

class MainActivity : ComponentActivity() {
    private val sample: SampleViewModel by viewModels()

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContent {
            MaterialTheme {
                Surface(Modifier.fillMaxSize()) { Screen(sample, ::share) }
            }
        }
    }

    private fun share(report: String) {
        val send = Intent(Intent.ACTION_SEND).setType("application/json").putExtra(Intent.EXTRA_TEXT, report)
        startActivity(Intent.createChooser(send, "device-report.json"))
    }
}

/** The one screen: what the bundle is, a prompt, the buttons, and the text as it grows. */
@Composable
fun Screen(sample: SampleViewModel, share: (String) -> Unit) {
    var prompt by remember { mutableStateOf("The coroutine then") }
    var temperature by remember { mutableFloatStateOf(0f) }
    Column(
        Modifier.safeDrawingPadding().padding(16.dp).verticalScroll(rememberScrollState()),
        verticalArrangement = Arrangement.spacedBy(12.dp),
    ) {
        Text(sample.facts)
        OutlinedTextField(
            value = prompt,
            onValueChange = { prompt = it },
            modifier = Modifier.fillMaxWidth(),
            label = { Text("Prompt") },
        )
        Text("Temperature %.1f".format(temperature))
        Slider(
            value = temperature,
            onValueChange = { temperature = it },
            modifier = Modifier.semantics { contentDescription = "Temperature" },
        )
        Row(horizontalArrangement = Arrangement.spacedBy(12.dp)) {
            if (sample.running) {
                Button(onClick = sample::stop) { Text("Stop") }
            } else {
                Button(onClick = { sample.generate(prompt, temperature.toDouble()) }) { Text("Generate") }
                Button(onClick = sample::measure) { Text("Measure") }
                sample.report?.let { Button(onClick = { share(it) }) { Text("Share") } }
            }
        }
        Text(sample.text, Modifier.semantics { liveRegion = LiveRegionMode.Polite })
    }
}
