import EdgeQKV
import SwiftUI
import UniformTypeIdentifiers

/// The one screen: what the bundle is, a prompt, the buttons, and the text as it grows.
struct ContentView: View {
    @State private var sample = Sample()
    @State private var prompt = "The coroutine then"
    @State private var temperature = 0.0
    @State private var choosing = false
    @State private var chatting = true

    private var chat: Bool { sample.chats && chatting }

    var body: some View {
        ScrollView {
            VStack(alignment: .leading, spacing: 12) {
                Text(sample.facts)
                if sample.chats { Toggle("Chat", isOn: $chatting) }
                TextField(chat ? "Message" : "Prompt", text: $prompt, axis: .vertical)
                Slider(value: $temperature, in: 0...1) { Text("Temperature") }
                buttons
                if let report = sample.report {
                    ShareLink(item: report) { Text("Share device-report.json") }
                }
                Text(sample.status)
                Text(sample.text)
            }
            .padding()
        }
        .fileImporter(isPresented: $choosing, allowedContentTypes: [.folder]) { result in
            Task { await sample.open(result) }
        }
    }

    @ViewBuilder private var buttons: some View {
        HStack(spacing: 12) {
            if sample.running {
                Button("Stop") { sample.stop() }
            } else {
                Button("Open") { choosing = true }
                Button(chat ? "Send" : "Generate") { Task { await generate() } }
                Button("Clear") { sample.clear() }
                Button("Measure") { Task { await sample.measure() } }
            }
        }
        .buttonStyle(.bordered)
    }

    private func generate() async {
        if chat {
            await sample.say(prompt, temperature: temperature)
        } else {
            await sample.generate(prompt, temperature: temperature)
        }
    }
}
