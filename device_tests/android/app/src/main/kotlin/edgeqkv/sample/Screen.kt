package edgeqkv.sample

import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.layout.safeDrawingPadding
import androidx.compose.foundation.rememberScrollState
import androidx.compose.foundation.verticalScroll
import androidx.compose.material3.Button
import androidx.compose.material3.OutlinedButton
import androidx.compose.material3.OutlinedTextField
import androidx.compose.material3.Slider
import androidx.compose.material3.Switch
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
import java.io.File

private const val NOTHING_OPEN =
    "No bundle is open. Open the folder that 'edgeqkv export' wrote, or push it to this app's folder and reload."

/** The one screen: what the bundle is, a prompt, the buttons, and the text as it grows. */
@Composable
fun Screen(sample: SampleViewModel, pick: () -> Unit, share: (File) -> Unit) {
    var prompt by remember { mutableStateOf("The coroutine then") }
    var temperature by remember { mutableFloatStateOf(0f) }
    var chatting by remember { mutableStateOf(true) }
    Column(
        Modifier.safeDrawingPadding().padding(16.dp).verticalScroll(rememberScrollState()),
        verticalArrangement = Arrangement.spacedBy(12.dp),
    ) {
        BundlePart(sample, pick)
        if (sample.open) {
            val chat = sample.chats && chatting
            if (sample.chats) {
                Row(horizontalArrangement = Arrangement.spacedBy(12.dp)) {
                    Switch(
                        checked = chatting,
                        onCheckedChange = { chatting = it },
                        modifier = Modifier.semantics { contentDescription = "Chat" },
                    )
                    Text(if (chatting) "Chat" else "Continue a text")
                }
            }
            OutlinedTextField(
                value = prompt,
                onValueChange = { prompt = it },
                modifier = Modifier.fillMaxWidth(),
                label = { Text(if (chat) "Message" else "Prompt") },
            )
            Text("Temperature %.1f".format(temperature))
            Slider(
                value = temperature,
                onValueChange = { temperature = it },
                modifier = Modifier.semantics { contentDescription = "Temperature" },
            )
            Actions(sample, chat, { generate(sample, chat, prompt, temperature) }, share)
        }
        Text(sample.status, Modifier.semantics { liveRegion = LiveRegionMode.Polite })
        Text(sample.text)
    }
}

@Composable
private fun BundlePart(sample: SampleViewModel, pick: () -> Unit) {
    Text(if (sample.open || sample.running) sample.facts else NOTHING_OPEN)
    if (!sample.running) {
        Row(horizontalArrangement = Arrangement.spacedBy(12.dp)) {
            OutlinedButton(onClick = pick) { Text("Open a bundle") }
            OutlinedButton(onClick = sample::reload) { Text("Reload") }
        }
    }
}

@Composable
private fun Actions(sample: SampleViewModel, chat: Boolean, generate: () -> Unit, share: (File) -> Unit) {
    Row(horizontalArrangement = Arrangement.spacedBy(12.dp)) {
        if (sample.running) {
            Button(onClick = sample::stop) { Text("Stop") }
        } else {
            Button(onClick = generate) { Text(if (chat) "Send" else "Generate") }
            OutlinedButton(onClick = sample::clear) { Text("Clear") }
            OutlinedButton(onClick = sample::measure) { Text("Measure") }
        }
    }
    sample.report?.let { Button(onClick = { share(it) }) { Text("Share device-report.json") } }
}

private fun generate(sample: SampleViewModel, chat: Boolean, prompt: String, temperature: Float) =
    if (chat) sample.say(prompt, temperature.toDouble()) else sample.generate(prompt, temperature.toDouble())
